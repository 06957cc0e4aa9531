"""Information filtering: how well the activations of tokens outline the object of an image."""
