"""The drawn people, and the files of the models that know them."""
