"""What is measured of one answer. `scoring` is the entrance; each other module is one measure or what several share."""

# Rises whenever an answer may get other figures than before: such figures are not compared with earlier ones.
MEASURES_VERSION = 2
