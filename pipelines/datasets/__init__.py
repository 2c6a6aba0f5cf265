"""What `snapvideo dataset` does: look at a dataset, check it, pin it, tidy it, hand it on."""
