"""Information filtering: how well activations of tokens outline the object of an image or cloud."""
