# Policies - a table under each conflict policy, and random work on them.

package Policies;

use strict;
use warnings;
use RandomWork qw(pick);

our @tables = qw(p_first p_high p_order p_merge p_unique p_hold p_resolve p_types p_part);

# Rows of this one are never deleted, and each statement adds one of everything.
our $counted = 'p_count';
my $counted_rows = 12;

our $schema = q{
    CREATE TABLE p_first (id int PRIMARY KEY, v text);
    CREATE TABLE p_high (id int PRIMARY KEY, rank int NOT NULL DEFAULT 0, v text);
    CREATE TABLE p_order (id int PRIMARY KEY, v text);
    CREATE TABLE p_merge (id int PRIMARY KEY, d bigint NOT NULL DEFAULT 0, hi int, lo int,
        js jsonb NOT NULL DEFAULT '{}', st text[] NOT NULL DEFAULT '{}', h text, v text, CHECK (d > -100000));
    CREATE TABLE p_unique (id int PRIMARY KEY, u text UNIQUE, d bigint NOT NULL DEFAULT 0, v text);
    CREATE TABLE p_hold (id int PRIMARY KEY, v text);
    CREATE TABLE p_resolve (id int PRIMARY KEY, v text);
    CREATE TABLE p_types (id int PRIMARY KEY, d bigint NOT NULL DEFAULT 0, v text);
    CREATE TABLE p_part (id int PRIMARY KEY, d bigint NOT NULL DEFAULT 0, v text) PARTITION BY HASH (id);
    CREATE TABLE p_part_0 PARTITION OF p_part FOR VALUES WITH (MODULUS 2, REMAINDER 0);
    CREATE TABLE p_part_1 PARTITION OF p_part FOR VALUES WITH (MODULUS 2, REMAINDER 1);
    CREATE TABLE p_count (id int PRIMARY KEY, d bigint NOT NULL, st text[] NOT NULL, js jsonb NOT NULL);
    INSERT INTO p_count SELECT g, 0, '{}', '{}' FROM generate_series(1, 12) g;
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
    q{SELECT cozesync.set_conflict_policy('p_types', 'first_update_wins')},
    q{SELECT cozesync.set_conflict_policy('p_types', 'merge', 'update_update')},
    q{SELECT cozesync.set_conflict_policy('p_types', 'hold', 'delete_updated')},
    q{SELECT cozesync.set_conflict_policy('p_types', 'node_order', 'update_deleted', node_order => ARRAY['c', 'a', 'b'])},
    q{SELECT cozesync.set_column_policy('p_types', 'd', 'delta')},
    (map { ("SELECT cozesync.set_conflict_policy('$_', 'merge')", "SELECT cozesync.set_column_policy('$_', 'd', 'delta')") } qw(p_part p_count)),
    q{SELECT cozesync.set_column_policy('p_count', 'st', 'set_merge')},
    q{SELECT cozesync.set_column_policy('p_count', 'js', 'json_merge')},
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
    return 'TRUNCATE ' . pick(qw(p_first p_part)) if rand() < 0.004;
    return "DELETE FROM $table WHERE id = $id" if rand() < 0.1;
    return "INSERT INTO $table (id, v) VALUES ($id, '$v') ON CONFLICT (id) DO UPDATE SET v = excluded.v" if rand() < 0.35;
    return "UPDATE p_high SET v = '$v', rank = rank + " . int(rand 3) . " WHERE id = $id" if $table eq 'p_high';
    return "UPDATE p_unique SET " . pick("u = '" . letter() . "'", 'u = NULL', 'd = d + ' . int(rand 9), "d = d - 1, v = '$v'")
        . " WHERE id = $id" if $table eq 'p_unique';
    return "UPDATE p_merge SET " . pick('d = d + ' . int(rand 9), 'd = d - 1, hi = ' . int(rand 1000), 'lo = ' . int(rand 1000),
        "js = js || '{\"" . letter() . "\": " . int(rand 9) . "}'", "js = js - '" . letter() . "'",
        "st = array_append(st, '" . letter() . "')", "st = array_remove(st, '" . letter() . "')",
        "h = '$v'", "v = '$v'") . " WHERE id = $id" if $table eq 'p_merge';
    return "UPDATE $table SET " . pick('d = d + ' . int(rand 9), "d = d - 1, v = '$v'", "v = '$v'") . " WHERE id = $id"
        if $table =~ /^p_(types|part)$/;
    return "UPDATE $table SET v = '$v' WHERE id = $id";
}

# A step of a counter, an element of a set and a member of an object, all or none.
sub count_up
{
    my ($v) = @_;
    return "UPDATE $counted SET d = d + 1, st = st || '$v'::text, js = js || '{\"$v\": 1}' WHERE id = " . (1 + int rand $counted_rows);
}

# What shows that a step is missing from a counter, or is in it twice, an element lost or a member: a query.
our $miscounted = "SELECT count(*) FROM $counted WHERE d <> cardinality(st) OR d <> (SELECT count(*) FROM jsonb_object_keys(js))"
    . " OR EXISTS (SELECT FROM unnest(st) t WHERE NOT js ? t)";

# Settle what is held, or decide anew what was decided.
sub settle
{
    return "SELECT cozesync.resolve_conflict(id, '" . pick('local', 'remote') . "') FROM (SELECT id FROM cozesync.conflicts"
        . " WHERE table_name LIKE 'p\\_%' AND (outcome = 'held' OR random() < 0.05) AND resolved_at IS NULL ORDER BY random() LIMIT 1) c";
}

1;
