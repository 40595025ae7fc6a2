"""Reports of known material to the hotlines: drafted with each incident, sent only when a person says so."""
