"""The commands: thin skins over what the rest of TokenGate can do."""
