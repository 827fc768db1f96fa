"""Clients for each kind of store. All of them keep the contract of `stores.base`."""
