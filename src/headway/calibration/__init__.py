"""From runs to a model of the endpoint: fitted by simulating what was sent, with how sure it is."""
