"""The injector: puts a gate into agents' pods when they are created, or into their manifests before.

`patch` decides, and does no I/O: the admission webhook and `tokengate inject` are two skins over it. Nothing here
serves a call, knows a budget's state or holds a provider's key; what runs beside an agent does not import it.
"""
