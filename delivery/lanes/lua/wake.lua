-- End the sleeps whose time has come. ARGV: caps. Returns the milliseconds until the next ends (-1: nobody sleeps).

wake_due(100)
return next_wake()
