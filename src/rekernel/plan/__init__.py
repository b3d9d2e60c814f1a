"""What a plan is: changes of layers, their JSON form, and the recipe stored in a result."""
