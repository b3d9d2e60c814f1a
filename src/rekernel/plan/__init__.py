"""Plans: the changes of layers, their JSON form, and the recipe that a converted file stores."""
