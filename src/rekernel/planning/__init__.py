"""Plan a checkpoint from the names and shapes of its tensors; hold the rules that all planners share."""
