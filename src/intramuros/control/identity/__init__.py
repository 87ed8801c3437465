"""Who calls and what they may do: principals, scopes, audit."""
