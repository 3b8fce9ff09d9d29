"""What differs between two runs (`compare`), and whether a run is worse (`check`)."""
