"""A Django project with one application, which is this same package."""
