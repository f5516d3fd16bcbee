"""Images: the files of a set, and the first layer of a model over pixels."""
