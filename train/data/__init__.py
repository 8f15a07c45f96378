"""From caches to the batches of a run: order, augmentation, feed."""
