"""Images and labels: reading, layouts, splits, preprocessing, augmentation, loading."""
