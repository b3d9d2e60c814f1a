"""Write a rescaled checkpoint: choose destinations and files, stream tensors, resume after an interruption."""
