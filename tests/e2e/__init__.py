"""The main job on every model of the zoo, through both carriers."""
