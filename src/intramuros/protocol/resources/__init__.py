"""The API's resources as models: requests refuse what they do not know, answers say every field."""
