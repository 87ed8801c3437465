"""The six tools of the agent toolset, host side: what they take and how results become content."""
