# Leaving, dropping, coming back; adding tables to a group that has several members; what a
# server without the library says.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

# --- without shared_preload_libraries ------------------------------------------------

my $bare = PostgreSQL::Test::Cluster->new('bare');
$bare->init;
$bare->start;
$bare->safe_psql('postgres', 'CREATE EXTENSION cozesync; CREATE TABLE t (id int PRIMARY KEY)');
for my $call (q{SELECT cozesync.create_group('g', 'bare', NULL)},
    q{CALL cozesync.join_group('bare', NULL, 'host=/nonexistent')},
    q{SELECT cozesync.add_table('t')}, q{SELECT cozesync.leave_group()})
{
    like(sql_error($bare, $call), qr/55000.*not preloaded.*shared_preload_libraries = 'cozesync'/s,
        "not preloaded: $call");
}
$bare->safe_psql('postgres', 'INSERT INTO t VALUES (1)');
$bare->stop;

# --- tables ------------------------------------------------------------------------------

my ($a, $b, $c) = new_group(nodes => [qw(a b c)], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'v' FROM generate_series(1, 100) g;});
my @all = ($a, $b, $c);

$a->safe_psql('postgres', q{CREATE TABLE late (id int PRIMARY KEY, v text, big text)});
like(sql_error($a, q{SELECT cozesync.add_table('late')}), qr/42P01.*table public.late does not exist on node "b"/s,
    'a table must exist on every node');
exec_all(q{CREATE TABLE late (id int PRIMARY KEY, v text, big varchar(9))}, $b);
exec_all(q{CREATE TABLE late (id int PRIMARY KEY, v text, big text)}, $c);
like(sql_error($a, q{SELECT cozesync.add_table('late')}),
    qr/42P16.*not the same on all nodes.*Column big is text on node "a" and character varying\(9\) on node "b"/s,
    'with the same columns');
exec_all(q{ALTER TABLE late ALTER big TYPE text}, $b);
exec_all(q{INSERT INTO late VALUES (7)}, $c);
like(sql_error($a, q{SELECT cozesync.add_table('late')}), qr/55000.*not empty on node "c"/s, 'and be empty');
exec_all(q{DELETE FROM late}, $c);
$a->safe_psql('postgres', q{INSERT INTO late SELECT g, 'v' || g, repeat(md5(g::text), 50) FROM generate_series(1, 5000) g});
is($a->safe_psql('postgres', q{SELECT cozesync.add_table('late')}), 1, 'then it is added');
is($a->safe_psql('postgres', q{SELECT cozesync.add_table('late')}), 0, 'once');
$a->safe_psql('postgres', q{INSERT INTO late VALUES (0, 'after')});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, ['late'], 'rows that were there travel as inserts');
$b->safe_psql('postgres', q{UPDATE late SET v = 'b' WHERE id < 10; DELETE FROM late WHERE id > 4990});
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, ['late'], 'and are under sync everywhere');
is($b->safe_psql('postgres', q{SELECT cozesync.remove_table('late')}), 1, 'taken off on another node');
ok(wait_quiet(@all), 'in sync');
exec_all(q{INSERT INTO late VALUES (-1, cozesync.node_name())}, @all);
ok(wait_quiet(@all), 'in sync');
is($_->safe_psql('postgres', 'SELECT v FROM late WHERE id = -1'), $_->name, 'each node goes on alone: ' . $_->name) for @all;

# --- leaving -----------------------------------------------------------------------------

$c->safe_psql('postgres', q{INSERT INTO t VALUES (300, 'last words')});
$c->safe_psql('postgres', 'SELECT cozesync.leave_group()');
is($a->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 300'), 1, 'a node that leaves has sent what it had');
ok(poll_until($b, q{SELECT count(*) = 2 FROM cozesync.nodes}), 'others know that it has left');
$c->safe_psql('postgres', q{INSERT INTO t VALUES (301, 'alone')});
$a->safe_psql('postgres', q{INSERT INTO t VALUES (302, 'without c')});
ok(wait_quiet($a, $b), 'those that stay go on');
is($c->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 302'), 0, 'nothing reaches it any more');
is($c->safe_psql('postgres', q{SELECT count(*) FROM pg_trigger WHERE tgname LIKE '!cozesync%'}), 0, 'nothing is captured there');

# and comes back, as somebody new, under its name
like(sql_error($c, sprintf(q{CALL cozesync.join_group('c', '%s', '%s')}, node_dsn($c), node_dsn($b))),
    qr/55000.*has rows here/s, 'its rows stand in the way');
$c->safe_psql('postgres', 'TRUNCATE t');
join_node($c, $b);
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, ['t'], 'left and joined again');

# --- dropping ------------------------------------------------------------------------------

$c->stop('immediate');
$a->safe_psql('postgres', q{SELECT cozesync.drop_node('c')});
is($a->safe_psql('postgres', q{SELECT cozesync.drop_node('c')}), '', 'dropping twice is no error');
like(sql_error($b, q{SELECT cozesync.drop_node('x')}), qr/42704.*there is no node "x"/s, 'a name that never was');
$a->safe_psql('postgres', q{UPDATE t SET v = 'after the drop'});
ok(wait_quiet($a, $b), 'those that stay go on');
ok(poll_until($_, 'SELECT coalesce(bool_and(kind = $$beat$$), true) FROM cozesync.entries() e, cozesync.stats s WHERE e.hlc > s.cut'),
    'and the cut moves on: ' . $_->name) for $a, $b;
$c->start;
ok(poll_until($c, q{SELECT state = 'left' FROM cozesync.about()}), 'the dropped node learns of it when it comes back');
$c->safe_psql('postgres', q{INSERT INTO t VALUES (400, 'of a dropped node')});
$a->safe_psql('postgres', q{INSERT INTO t VALUES (401, 'after')});
ok(wait_quiet($a, $b), 'in sync');
is($a->safe_psql('postgres', 'SELECT count(*) FROM t WHERE id = 400'), 0, 'what a dropped node writes stays there');
$c->safe_psql('postgres', 'SELECT cozesync.leave_group()');
is($b->safe_psql('postgres', q{SELECT string_agg(node_name, ' ' ORDER BY node_name) FROM cozesync.nodes}), 'a b',
    'leaving after that changes nothing for others');
$c->safe_psql('postgres', 'TRUNCATE t');
join_node($c, $a);
ok(wait_quiet(@all), 'in sync');
same_rows(\@all, ['t'], 'dropped and joined again');

# Of two, the survivor goes on alone.
$a->safe_psql('postgres', q{SELECT cozesync.drop_node('c')});
ok(wait_quiet($a, $b), 'in sync');
$b->stop;
$a->safe_psql('postgres', q{SELECT cozesync.drop_node('b')});
$a->safe_psql('postgres', q{INSERT INTO t VALUES (500, 'alone')});
ok(poll_until($a, 'SELECT coalesce(bool_and(kind = $$beat$$), true) FROM cozesync.entries() e, cozesync.stats s WHERE e.hlc > s.cut'),
    'a node that is alone forgets what it has sent');
$a->safe_psql('postgres', 'SELECT cozesync.leave_group()');
is($a->safe_psql('postgres', 'SELECT count(*) FROM cozesync.nodes WHERE is_local AND state = $$ready$$'), 0, 'the last one leaves');

# --- rows that are there already --------------------------------------------------------------

my ($e) = new_group(nodes => ['e'], schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'v' FROM generate_series(1, 1000) g;});
my $f = new_node('f');
$f->safe_psql('postgres', q{CREATE TABLE t (id int PRIMARY KEY, v text);
    INSERT INTO t SELECT g, 'v' FROM generate_series(1, 1000) g;});
join_node($f, $e, copy_schema => 'false', copy_data => 'false');
$e->safe_psql('postgres', q{UPDATE t SET v = 'e' WHERE id <= 10});
$f->safe_psql('postgres', q{UPDATE t SET v = 'f' WHERE id > 990});
ok(wait_quiet($e, $f), 'in sync');
same_rows([ $e, $f ], ['t'], 'joined with rows that were there');

# Links only to the member that it joined through.
my $g = new_node('g');
join_node($g, $e, direct_links => 'false');
ok(poll_until($f, q{SELECT count(*) = 3 FROM cozesync.nodes WHERE state = 'ready'}), 'f knows of g');
is($g->safe_psql('postgres', q{SELECT string_agg(DISTINCT source || '>' || target || ' ' || mode, ', ') FROM cozesync.links
    WHERE mode <> 'off'}), 'e>g push, g>e push', 'g has links with e alone');
$g->safe_psql('postgres', q{INSERT INTO t VALUES (2000, 'g')});
$f->safe_psql('postgres', q{INSERT INTO t VALUES (2001, 'f')});
ok(poll_until($_, q{SELECT count(*) = 2 FROM t WHERE id >= 2000}), 'rows reach ' . $_->name) for $e, $f, $g;
same_rows([ $e, $f, $g ], ['t'], 'over another node');

# Nor with who joins later, through another.
my $h = new_node('h');
join_node($h, $f);
ok(poll_until($g, q{SELECT count(*) = 4 FROM cozesync.nodes WHERE state = 'ready'}), 'g knows of h');
is($g->safe_psql('postgres', q{SELECT string_agg(DISTINCT source || '>' || target || ' ' || mode, ', ') FROM cozesync.links
    WHERE mode <> 'off'}), 'e>g push, g>e push', 'g has links with e alone');
$h->safe_psql('postgres', q{INSERT INTO t VALUES (3000, 'h')});
ok(poll_until($g, q{SELECT count(*) = 1 FROM t WHERE id = 3000}), 'rows reach it all the same');

done_testing();
