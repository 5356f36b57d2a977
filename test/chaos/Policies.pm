# Policies - a table under each conflict policy, and random work on them.

package Policies;

use strict;
use warnings;
use RandomWork qw(pick);

our @tables = qw(p_first p_high p_order p_merge p_unique p_hold p_resolve);

our $schema = q{
    CREATE TABLE p_first (id int PRIMARY KEY, v text);
    CREATE TABLE p_high (id int PRIMARY KEY, rank int NOT NULL DEFAULT 0, v text);
    CREATE TABLE p_order (id int PRIMARY KEY, v text);
    CREATE TABLE p_merge (id int PRIMARY KEY, d bigint NOT NULL DEFAULT 0, hi int, lo int,
        js jsonb NOT NULL DEFAULT '{}', st text[] NOT NULL DEFAULT '{}', h text, v text, CHECK (d > -100000));
    CREATE TABLE p_unique (id int PRIMARY KEY, u text UNIQUE, d bigint NOT NULL DEFAULT 0, v text);
    CREATE TABLE p_hold (id int PRIMARY KEY, v text);
    CREATE TABLE p_resolve (id int PRIMARY KEY, v text);
    CREATE FUNCTION p_resolve_it(earlier p_resolve, later p_resolve, base p_resolve, conflict_type text) RETURNS p_resolve
        LANGUAGE plpgsql IMMUTABLE AS $$
        DECLARE r public.p_resolve := later;
        BEGIN
            IF later IS NULL OR earlier IS NULL THEN RETURN NULL; END IF;
            r.v := pg_catalog.left(pg_catalog.md5(earlier.v || later.v || coalesce(base.v, '')), 8);
            RETURN r;
        END $$;
};

# On one node, once the tables are under sync.
our @setup = (
    q{SELECT cozesync.set_conflict_policy('p_first', 'first_update_wins')},
    q{SELECT cozesync.set_conflict_policy('p_high', 'highest_version', version_column => 'rank')},
    q{SELECT cozesync.set_conflict_policy('p_order', 'node_order', node_order => ARRAY['b', 'a', 'c'])},
    q{SELECT cozesync.set_conflict_policy('p_merge', 'merge')},
    (map { "SELECT cozesync.set_column_policy('p_merge', '$_->[0]', '$_->[1]')" }
        [ d => 'delta' ], [ hi => 'max' ], [ lo => 'min' ], [ js => 'json_merge' ], [ st => 'set_merge' ], [ h => 'hold' ]),
    q{SELECT cozesync.set_conflict_policy('p_unique', 'merge')},
    q{SELECT cozesync.set_column_policy('p_unique', 'd', 'delta')},
    q{SELECT cozesync.set_conflict_policy('p_hold', 'hold')},
    q{SELECT cozesync.set_conflict_policy('p_resolve', 'resolver', resolver => 'public.p_resolve_it(p_resolve, p_resolve, p_resolve, text)')},
);

sub id { return 1 + int rand 6 }
sub letter { return pick(qw(p q r s)) }

# One statement; v is a value that is written once.
sub statement
{
    my ($v) = @_;
    my $table = pick(@tables);
    my $id = id();
    return "DELETE FROM $table WHERE id = $id" if rand() < 0.1;
    return "INSERT INTO $table (id, v) VALUES ($id, '$v') ON CONFLICT (id) DO UPDATE SET v = excluded.v" if rand() < 0.35;
    return "UPDATE p_high SET v = '$v', rank = rank + " . int(rand 3) . " WHERE id = $id" if $table eq 'p_high';
    return "UPDATE p_unique SET " . pick("u = '" . letter() . "'", 'u = NULL', 'd = d + ' . int(rand 9), "d = d - 1, v = '$v'")
        . " WHERE id = $id" if $table eq 'p_unique';
    return "UPDATE p_merge SET " . pick('d = d + ' . int(rand 9), 'd = d - 1, hi = ' . int(rand 1000), 'lo = ' . int(rand 1000),
        "js = js || '{\"" . letter() . "\": " . int(rand 9) . "}'", "js = js - '" . letter() . "'",
        "st = array_append(st, '" . letter() . "')", "st = array_remove(st, '" . letter() . "')",
        "h = '$v'", "v = '$v'") . " WHERE id = $id" if $table eq 'p_merge';
    return "UPDATE $table SET v = '$v' WHERE id = $id";
}

# Settle what is held, or decide anew what was decided.
sub settle
{
    return "SELECT cozesync.resolve_conflict(id, '" . pick('local', 'remote') . "') FROM (SELECT id FROM cozesync.conflicts"
        . " WHERE table_name LIKE 'p\\_%' AND (outcome = 'held' OR random() < 0.05) AND resolved_at IS NULL ORDER BY random() LIMIT 1) c";
}

1;
