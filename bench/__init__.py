"""Measurements of the gate as ratios: what it costs compared with no gate, with nginx, and with its nearest peer.

Everything that is compared is measured in one run, in turns, on the same machine, with the same upstream and the same
load. The gate (or what stands in its place) has one core to itself; the upstream, Redis and the load share another.
"""
