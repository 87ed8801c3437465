"""Intramuros: agents whose brain and hands live on different sides of a wall.

Rooms: ``kernel`` (small utilities), ``protocol`` (what two machines must agree on), the planes
``control``, ``execution`` and ``tunnel`` that meet only on the wire, ``console`` (static pages)
and ``cli``, the only room that imports the planes.
"""
