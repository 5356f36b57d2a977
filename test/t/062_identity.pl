# Databases that are not what they claim to be, each noticed before anything leaves it, each with
# its way out; what a dropped node can save; and what the doctor says.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_group(nodes => [qw(a b)], dbname => 'app', schema => q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    CREATE TABLE s (id serial PRIMARY KEY, v text)});
my $both = \'app';

sub on
{
    my ($node, $sql, $dbname) = @_;
    return $node->safe_psql($dbname // 'app', $sql);
}

sub findings
{
    my ($node, $severity) = @_;
    return on($node, "SELECT object || ': ' || finding FROM cozesync.check() WHERE severity = '$severity' ORDER BY 1");
}

ok(wait_sync($both, $a, $b), 'in sync');
is(findings($a, 'error'), '', 'the doctor finds nothing wrong');
like(findings($a, 'warning'), qr/^public\.s: column id draws its numbers from sequence public\.s_id_seq, which other nodes draw from, too$/m,
    'but a sequence that will collide');
on($a, 'SELECT cozesync.spread_sequences()');
ok(wait_sync($both, $a, $b), 'in sync');
unlike(findings($a, 'warning'), qr/sequence/, 'until it is spread');

# --- pg_upgrade: another system identifier -------------------------------------------------

on($b, q{UPDATE cozesync.local_node SET system_identifier = 1});
$b->restart;
on($b, q{INSERT INTO t VALUES (1, 'upgraded')});
like(findings($b, 'error'), qr/this database is not the one that joined the group/, 'the doctor says why');
is(on($b, q{SELECT cozesync.wait_for_sync('300 ms')}), 'f', 'links are closed');
on($b, 'SELECT cozesync.confirm_identity()');
ok(wait_sync($both, $a, $b), 'until it is confirmed');
is(on($a, 'SELECT v FROM t WHERE id = 1'), 'upgraded', 'nothing is lost');

# --- a dump, restored in place of the database ------------------------------------------------

# what is written after the dump, a beat say, must not reach a: that would be a loss
my ($dump, $err);
$a->stop;
IPC::Run::run([ $b->installed_command('pg_dump'), '-d', $b->connstr('app') ], '>', \$dump, '2>', \$err);
$b->safe_psql('postgres', 'CREATE DATABASE restored');
(undef, undef, $err) = $b->psql('restored', $dump);
unlike($err, qr/ERROR/, 'a dump restores');
$b->safe_psql('postgres', $_) for 'DROP DATABASE app', 'ALTER DATABASE restored RENAME TO app';
$a->start;
on($b, q{INSERT INTO t VALUES (2, 'restored')});
like(findings($b, 'error'), qr/this database is not the one/, 'it is known as a copy');
on($b, 'SELECT cozesync.confirm_identity()');
ok(wait_sync($both, $a, $b), 'in sync when it is confirmed');
is(on($a, 'SELECT v FROM t WHERE id = 2'), 'restored', 'with what was written meanwhile');
is(findings($b, 'error'), '', 'everything is captured');
on($b, q{CREATE TABLE late (id int PRIMARY KEY)});
on($a, q{CREATE TABLE late (id int PRIMARY KEY)});
on($b, q{SELECT cozesync.add_table('late'); INSERT INTO late VALUES (1)});
ok(wait_sync($both, $a, $b), 'facts of the group, too');
is(on($a, 'SELECT count(*) FROM late'), 1, 'as the other node sees');

# --- a clone beside the original -----------------------------------------------------------------

# salvage() goes by what b knows of a, so b shall know that all it has written is there
my $clone = PostgreSQL::Test::Cluster->new('clone');
ok(poll_until($b, q{SELECT NOT EXISTS (SELECT FROM cozesync.changes() c WHERE c.origin = 'b' AND NOT EXISTS
    (SELECT FROM cozesync.entries() e WHERE e.origin = 'a' AND (e.seen ->> 'b')::timestamptz >= c.hlc))}, 't', 'app'),
    'b knows what a holds');
$b->stop;
system_or_bail('mkdir', '-p', $clone->basedir);
system_or_bail('cp', '-a', $b->data_dir, $clone->data_dir);
$b->start;
$clone->append_conf('postgresql.conf', sprintf "port = %d\nunix_socket_directories = '%s'", $clone->port, $clone->host);
on($b, q{INSERT INTO t VALUES (3, 'original')});
ok(wait_sync($both, $a, $b), 'the original goes on');
$clone->start;
on($clone, q{INSERT INTO t VALUES (4, 'clone')});
ok(poll_until($clone, q{SELECT state = 'needs_copy' FROM cozesync.nodes WHERE is_local}, 't', 'app'), 'the clone is noticed');
like(findings($clone, 'error'), qr/this database has lost transactions|is a copy of one that is running/, 'the doctor says what it is');
on($a, q{INSERT INTO t VALUES (5, 'a')});
ok(wait_sync($both, $a, $b), 'a and b are not disturbed');
is(on($a, 'SELECT count(*) FROM t WHERE id = 4'), 0, 'nothing has left the clone');
is(on($clone, 'SELECT string_agg(key::text, $$,$$) FROM cozesync.salvage()'), '{"id": 4}', 'what it wrote can be read there');
on($clone, 'SELECT cozesync.leave_group()');
is(on($a, 'SELECT count(*) FROM cozesync.nodes'), 2, 'the original is a member when the clone leaves');
$clone->stop;
ok(wait_sync($both, $a, $b), 'and goes on');

# --- one that has nothing of its own, and nothing less ---------------------------------------------

$b->stop;
system_or_bail('rm', '-r', $clone->data_dir);
system_or_bail('cp', '-a', $b->data_dir, $clone->data_dir);
$b->start;
$clone->append_conf('postgresql.conf', sprintf "port = %d\nunix_socket_directories = '%s'", $clone->port, $clone->host);
ok(wait_sync($both, $a, $b), 'the original is linked');
for my $off (1, 0)
{
    debug_rule($a, 'twins', $off, 'app');
    $clone->start;
    my $noticed = q{SELECT state = 'needs_copy' FROM cozesync.nodes WHERE is_local};
    # without the rule the two take turns
    my $shown = $off ? 0 : poll_until($clone, $noticed, 't', 'app');
    if ($off)
    {
        ok($a->wait_for_log(qr/has greeted from another start of its server/), 'they take turns');
        on($a, 'SELECT count(*) FROM cozesync.links') for 1 .. 20;
        $shown = on($clone, $noticed) eq 't';
    }
    ok($off ? !$shown : $shown, 'a copy that runs beside the original: ' . ($off ? 'breaks without the rule twins' : 'holds'));
    $clone->stop if $off;
}
like(findings($clone, 'error'), qr/is a copy of one that is running: another database is linked as node "b"/, 'the doctor says what it is');
on($a, q{INSERT INTO t VALUES (6, 'a')});
on($b, q{INSERT INTO t VALUES (7, 'b')});
ok(wait_sync($both, $a, $b), 'a and b go on');
on($clone, 'SELECT cozesync.leave_group()');
is(on($a, 'SELECT count(*) FROM cozesync.nodes'), 2, 'the original is a member when the clone leaves');
$clone->stop;

# --- what a dropped node has not sent ----------------------------------------------------------------

like(sql_error($b, 'SELECT * FROM cozesync.salvage()', 'app'), qr/55000.*is a member of its group/s, 'a member has nothing to save');
on($b, 'SELECT cozesync.pause()');
on($b, q{INSERT INTO t VALUES (10, 'unsent'); UPDATE t SET v = 'unsent, too' WHERE id = 1; DELETE FROM t WHERE id = 2;
    BEGIN; INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1001, 1500) g; COMMIT});
on($a, q{SELECT cozesync.drop_node('b')});
on($b, 'SELECT cozesync.resume()');
ok(poll_until($b, q{SELECT state = 'left' FROM cozesync.about()}, 't', 'app'), 'b learns that it was dropped');
is(on($b, q{SELECT string_agg(concat_ws(' ', operation, key ->> 'id', new_row ->> 'v'), ', ' ORDER BY hlc) FROM cozesync.salvage()
    WHERE (key ->> 'id')::int < 1000}), 'insert 10 unsent, update 1 unsent, too, delete 2', 'what it had not sent');
is(on($b, q{SELECT count(*) FROM cozesync.salvage() WHERE length(new_row ->> 'v') = 1000}), 500, 'all of it');
is(on($b, q{SELECT bool_and(origin = 'b' AND relation = 'public.t') FROM cozesync.salvage()}), 't', 'and nothing else');
like(findings($b, 'info'), qr/not a member of a group/, 'the doctor says that it is alone');
on($b, 'SELECT cozesync.leave_group()');
is(on($b, 'SELECT count(*) FROM cozesync.salvage()'), 503, 'also after leaving');
on($b, 'TRUNCATE t, s, late');
join_node($b, $a, dbname => 'app');
ok(wait_sync($both, $a, $b), 'it has joined again');
same_rows([ $a, $b ], [qw(t s late)], 'as somebody new', 'app');

# --- the doctor ------------------------------------------------------------------------------------------

$b->stop;
ok(poll_until($a, q{SELECT state = 'unreachable' FROM cozesync.nodes WHERE node_name = 'b'}, 't', 'app'), 'a node that is away');
like(findings($a, 'warning'), qr/^node b: it cannot be asked: /m, 'is named');
$b->start;
on($a, q{CREATE TABLE nokey (v text); ALTER TABLE t ADD COLUMN u int UNIQUE;
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER twice AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f(); ALTER TABLE t ENABLE ALWAYS TRIGGER twice});
like(findings($a, 'warning'), qr/^public\.nokey: it is not under sync, unlike other tables of its schema: It has no primary key/m, 'a table without key');
like(findings($a, 'warning'), qr/trigger twice fires for rows that come from other nodes/, 'a trigger that fires twice');
like(findings($a, 'info'), qr/unique index public\.t_u_key can be violated by two nodes/, 'a second unique index');
on($a, q{ALTER TABLE t DISABLE TRIGGER "!cozesync_capture"});
like(findings($a, 'error'), qr/public\.t: its capture is disabled/, 'capture that was switched off');
on($a, q{ALTER TABLE t ENABLE TRIGGER "!cozesync_capture"});
is(findings($a, 'error'), '', 'nothing is wrong again');

done_testing();
