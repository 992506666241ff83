"""What a simulated market stands on: virtual time, a network, a broker that crashes, devices and clients.

Imports the market's core and models of behaviour only as protocols.
"""
