module pilotlight/peers

go 1.19
