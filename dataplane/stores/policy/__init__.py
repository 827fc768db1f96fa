"""Policies around a store: each is a wrapper that keeps the contract of `stores.base`."""
