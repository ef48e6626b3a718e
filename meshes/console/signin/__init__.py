"""How operators sign in, and who may change what a sign-in rests on: passwords, second factors, sessions, rights."""
