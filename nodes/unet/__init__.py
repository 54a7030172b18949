"""What is done to a UNet."""
