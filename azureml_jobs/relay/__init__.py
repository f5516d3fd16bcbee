"""A way through that needs no inbound port: both sides dial out to a relay, and meet there."""
