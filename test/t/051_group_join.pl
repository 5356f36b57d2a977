# Joining while everybody writes: the joiner ends with the rows that all others have, nothing
# is lost or applied twice, and it is written to only when every member counts it.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_pair(
    schema => q{
        CREATE TABLE acc (id int PRIMARY KEY, n int NOT NULL, by text);
        CREATE TABLE doc (id serial PRIMARY KEY, tag text UNIQUE, body text);
        CREATE TABLE log (node text, n int, PRIMARY KEY (node, n));
        CREATE TABLE part (id int, r int, v text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
        CREATE TABLE part_0 PARTITION OF part FOR VALUES IN (0);
        CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
        INSERT INTO acc SELECT g, 0, 'start' FROM generate_series(1, 200) g;
        INSERT INTO doc (tag, body) SELECT 'tag' || g, repeat(md5(g::text), 100) FROM generate_series(1, 500) g;
        INSERT INTO part SELECT g, g % 2, 'p' FROM generate_series(1, 500) g;},
    setup => 'SELECT cozesync.spread_sequences()');
my @tables = qw(acc doc log part);
my $c = new_node('c');
my $d = new_node('d');

# A load that touches the same rows on both nodes, in many small transactions.
sub load
{
    my ($node, $n) = @_;
    my $name = $node->name;
    return background($node, qq{
        DO \$\$
        DECLARE k int;
        BEGIN
            FOR i IN 1..$n LOOP
                k := 1 + (random() * 199)::int;
                INSERT INTO log VALUES ('$name', i);
                UPDATE acc SET n = n + 1, by = '$name' WHERE id = k;
                IF i % 7 = 0 THEN DELETE FROM acc WHERE id = 201 - k; END IF;
                IF i % 7 = 3 THEN INSERT INTO acc VALUES (201 - k, i, '$name') ON CONFLICT (id) DO UPDATE SET n = 0; END IF;
                IF i % 5 = 0 THEN INSERT INTO doc (tag, body) VALUES ('$name' || i, repeat('x', 3000)); END IF;
                IF i % 11 = 0 THEN UPDATE part SET r = 1 - r, v = '$name' || i WHERE id = k; END IF;
                COMMIT;
            END LOOP;
        END \$\$;});
}

my @loads = (load($a, 3000), load($b, 3000));
join_node($c, $a);
is($c->safe_psql('postgres', 'SELECT state FROM cozesync.nodes WHERE is_local'), 'ready', 'c is ready under load');
push @loads, load($c, 1000);
join_node($d, $b);
for my $load (@loads)
{
    my ($status, $out, $err) = $load->finish;
    is($status, 0, 'load went through') or diag($err);
}
my @all = ($a, $b, $c, $d);
ok(wait_quiet(@all), 'all hold the same');
same_rows(\@all, \@tables, 'rows are the same on all nodes after two joins under load');
is($d->safe_psql('postgres', 'SELECT string_agg(node || count, $$ $$ ORDER BY node) FROM (SELECT node, count(*) FROM log GROUP BY node) t'),
    'a3000 b3000 c1000', 'no row of the load is missing');
is($_->safe_psql('postgres', q{SELECT count(*) FROM cozesync.conflicts WHERE conflict_type IN ('update_missing', 'delete_missing')}),
    0, 'no sign of divergence on ' . $_->name) for @all;
is($_->safe_psql('postgres', q{SELECT string_agg(node_name || ' ' || state || ' ' || slot, ', ' ORDER BY node_name) FROM cozesync.nodes}),
    'a ready 0, b ready 1, c ready 2, d ready 3', 'all know all on ' . $_->name) for @all;

# Numbers never collide, whoever draws them.
exec_all(q{INSERT INTO doc (tag) SELECT cozesync.node_name() || ' draws ' || g FROM generate_series(1, 50) g}, @all);
ok(wait_quiet(@all), 'in sync');
is($d->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id % 16) FROM doc WHERE tag LIKE '% draws %'}),
    '200|4', 'each node draws numbers of its own');
same_rows(\@all, ['doc'], 'numbers drawn on four nodes');

# A member that is away holds a joiner up, and is named.
my $e = new_node('e');
$d->stop;
$e->safe_psql('postgres', sprintf(q{CALL cozesync.join_group('e', '%s', '%s', wait => false)}, node_dsn($e), node_dsn($a)));
ok(poll_until($e, q{SELECT phase = 'catching up' FROM cozesync.join_run}), 'e has copied everything');
ok(poll_until($a, q{SELECT state = 'unreachable' FROM cozesync.nodes WHERE node_name = 'd'}), 'the member that is away is shown as such');
like(sql_error($e, q{INSERT INTO log VALUES ('e', 1)}), qr/55000.*while this node joins its group/s, 'and may not be written to');
is($a->safe_psql('postgres', q{SELECT state FROM cozesync.nodes WHERE node_name = 'e'}), 'joining', 'which others see');
$d->start;
ok(poll_until($e, q{SELECT state = 'ready' FROM cozesync.nodes WHERE is_local}), 'until the member is back');
$e->safe_psql('postgres', q{INSERT INTO log VALUES ('e', 1)});
push @all, $e;
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, \@tables, 'five nodes');

done_testing();
