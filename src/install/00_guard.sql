\echo Use "CREATE EXTENSION cozesync" to load this file. \quit

