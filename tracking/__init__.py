"""Online trackers: a network of this project in a video, frame by frame."""
