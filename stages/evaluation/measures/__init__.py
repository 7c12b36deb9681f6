"""What is measured of one answer. `scoring` is the entrance; each other file is one measure."""
