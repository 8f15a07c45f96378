"""Generated video: an input like any data set, of which every pixel is computed."""
