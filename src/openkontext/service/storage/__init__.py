"""What is kept: the database and its tables, files of pictures, sealed secrets, and how content is erased."""
