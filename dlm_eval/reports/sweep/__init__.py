"""Results of a sweep: quality against speed."""
