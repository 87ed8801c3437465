"""What operators do to a whole installation: back up, restore, move, examine. Not for requests.

Above the store and sessions; nothing but the command line imports it.
"""
