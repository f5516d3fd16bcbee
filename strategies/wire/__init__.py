"""What travels between server and silos: keys and layouts, the run's values, objects and packed
arrays.
"""
