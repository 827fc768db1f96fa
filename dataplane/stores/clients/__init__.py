"""Clients: how each kind of store is reached. All of them keep the contract of `stores.base`."""
