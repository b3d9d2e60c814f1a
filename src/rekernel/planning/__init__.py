"""Making a plan from names and shapes, and the rules that say what a layer becomes."""
