"""What is drawn for a person to look at; knows Pillow only."""
