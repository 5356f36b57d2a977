# Nothing passes between databases that are not who they should be, or that do not
# hold what they should: strangers, copies, moved databases, restored backups.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_group(
    nodes => [qw(a b)], dbname => 'app',
    schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my $both = \'app';

sub on
{
    my ($node, $sql, $dbname) = @_;
    return $node->safe_psql($dbname // 'app', $sql);
}

ok(wait_sync($both, $a, $b), 'in sync');

# --- greetings ------------------------------------------------------------------------------

# A greeting like that of node a, with something changed.
on($b, q{
CREATE FUNCTION greeting(protocol int = 1, the_group uuid = NULL, the_origin bigint = NULL,
                         the_system bigint = NULL, the_name text = 'a', the_own bigint = NULL, positions bytea = '\x0000')
RETURNS bytea LANGUAGE sql AS $$
    SELECT '\x434f5a45'::bytea || int4send(protocol) || uuid_send(coalesce(the_group, l.group_id))
        || int8send(coalesce(the_origin, m.origin)) || int8send(coalesce(the_system, m.system_identifier))
        || int4send(m.database_oid::int) || int4send(150000) || int8send(0)
        || int8send((extract(epoch FROM now() - '2000-01-01'::timestamptz) * 1000000)::bigint)
        || set_byte('\x00', 0, length(the_name)) || convert_to(the_name, 'UTF8') || positions
    FROM cozesync.local_node l, cozesync.member m WHERE m.node_name = 'a'
$$});
my $own_b = on($b, 'SELECT origin FROM cozesync.local_node');

is(on($b, 'SELECT length(cozesync.hello(greeting())) > 50'), 't', 'a good greeting is answered');
is(on($b, q{SELECT cozesync.hello(greeting(the_origin => 1, the_name => 'x')) IS NULL}), 't', 'one of a stranger is not');
for my $case (
    ['greeting(protocol => 2)', qr/0A000: the other node speaks version 2 of the protocol/],
    [q{greeting(the_group => gen_random_uuid())}, qr/55000: node "a" belongs to another group/],
    ["greeting(the_origin => $own_b)", qr/55000: the node is connected to itself/],
    ['greeting(the_system => 1)', qr/55000: the database that calls itself node "a" is not the one that joined/],
    ['substr(greeting(), 1, 40)', qr/08P01: invalid greeting/],
    [q{greeting() || '\x00'}, qr/08P01: invalid greeting/])
{
    like(sql_error($b, "SELECT cozesync.hello($case->[0])", 'app'), $case->[1], "refused: $case->[0]");
}

# --- batches -------------------------------------------------------------------------------------

# Links off, so that this session is the only one of node a.
on($a, q{SELECT cozesync.pause()});
my $frame = q{'\x45'::bytea || int8send(%s) || int4send(16 + length(payload)) || int8send(origin) || int8send(hlc) || %s};
my $last = q{FROM cozesync.log_1 l JOIN cozesync.member m USING (origin) WHERE m.node_name = 'a' ORDER BY hlc DESC LIMIT 1};
my $vector = on($b, 'SELECT cozesync.vector()');
for my $case (
    ['no greeting', 'SELECT cozesync.receive(NULL)', qr/08P01: a link begins with/],
    ['no frame', q{SELECT cozesync.receive('\x00')}, qr/08P01: received a batch that is not valid/],
    ['a frame cut off', q{SELECT cozesync.receive('\x4500000000000000000000')}, qr/08P01/],
    ['a chunk of nothing', q{SELECT cozesync.receive('\x43000000080000000000000000')}, qr/08P01/],
    ['a flipped bit', sprintf("SELECT cozesync.receive($frame) $last", 'hlc - 1',
        'set_byte(payload, length(payload) - 1, get_byte(payload, length(payload) - 1) # 1)'), qr/08P01.*checksum/],
    ['an entry of its own', sprintf("SELECT cozesync.receive($frame) FROM cozesync.log_1 WHERE origin = $own_b LIMIT 1",
        'hlc - 1', 'payload'), qr/08P01.*this node's own/],
    ['not behind its predecessor', sprintf("SELECT cozesync.receive($frame) $last", 'hlc', 'payload'),
        qr/08P01.*does not follow/],
    ['twice in one batch', sprintf("SELECT cozesync.receive($frame || $frame) $last", 'hlc - 1', 'payload', 'hlc - 1', 'payload'),
        qr/08P01/])
{
    my ($name, $sql, $error) = @$case;
    my $begin = $name eq 'no greeting' ? '' : q{SELECT cozesync.hello(greeting()); SELECT cozesync.receive('\x');};
    my ($status, $out, $err) = $b->psql('app', "$begin $sql; SELECT 1", on_error_stop => 0,
        extra_params => [ '-v', 'VERBOSITY=verbose' ]);
    like($err, $error, "refused: $name");
}
my (undef, undef, $err) = $b->psql('app', q{SELECT cozesync.hello(greeting()); SELECT cozesync.receive('\x');
    SELECT cozesync.receive('\x00'); SELECT cozesync.receive('\x')}, on_error_stop => 0);
like($err, qr/a link begins with/, 'after bad bytes the session is over');
is(on($b, q{SELECT cozesync.hello(greeting()) IS NOT NULL, cozesync.receive('\x') IS NOT NULL;} .
    sprintf(" SELECT cozesync.receive($frame) IS NULL $last", 'hlc - 1', 'payload')),
    "t|t\nf", 'what is here already is no error');
is(on($b, 'SELECT cozesync.vector()'), $vector, 'and nothing was taken');
on($a, q{SELECT cozesync.resume()});

# --- a DSN that leads elsewhere --------------------------------------------------------------------

on($a, sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, node_dsn($a, 'app')));
poll_until($a, q{SELECT last_error LIKE 'the node is connected to itself%' AND state = 'backing off'
    FROM cozesync.links WHERE target = 'b'}, 't', 'app');
on($a, sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, node_dsn($b, 'app')));
ok(wait_sync($both, $a, $b), 'in sync with the right DSN again');

# --- a copy of the database -------------------------------------------------------------------------

$b->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE app');
on($b, q{INSERT INTO t VALUES (100, 'in the copy')}, 'copy');
poll_until($b, q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'cozesync linker' AND datname = 'copy'}, 't', 'copy');
is(on($b, q{SELECT DISTINCT state, last_error FROM cozesync.links}, 'copy'),
    'stopped|this database is not the one that joined the group', 'the links of a copy are closed');
like(sql_error($b, sprintf(q{SELECT cozesync.hello('\x%s')}, on($b, q{SELECT encode(greeting(), 'hex')})), 'copy'),
    qr/55000: this database is not the one that joined the group.*confirm_identity/s, 'to its peers, too');
on($a, q{INSERT INTO t VALUES (1, 'a')});
on($b, q{INSERT INTO t VALUES (2, 'b')});
ok(wait_sync($both, $a, $b), 'the original goes on');
is(on($a, 'SELECT count(*) FROM t WHERE id = 100'), 0, 'nothing comes from the copy');
$b->safe_psql('postgres', 'DROP DATABASE copy');

# --- a database that was moved ------------------------------------------------------------------------

$b->safe_psql('postgres', $_)
    for 'CREATE DATABASE moved TEMPLATE app', 'DROP DATABASE app', 'ALTER DATABASE moved RENAME TO app';
on($b, q{INSERT INTO t VALUES (3, 'moved')});
is(on($b, q{SELECT cozesync.wait_for_sync('500 ms')}), 'f', 'its links are closed');
on($b, 'SELECT cozesync.confirm_identity()');
ok(wait_sync($both, $a, $b), 'until its identity is confirmed');
same_rows([$a, $b], ['t'], 'nothing is lost', 'app');

# --- a database that went back in time -------------------------------------------------------------------

my $dir = $b->data_dir;
$b->stop;
system_or_bail('cp', '-a', $dir, "$dir.backup");
$b->start;
on($b, q{INSERT INTO t VALUES (4, 'will be lost')});
ok(wait_sync($both, $b), 'a has it');
$b->stop;
on($a, q{INSERT INTO t VALUES (5, 'while b is away')});
system_or_bail('rm', '-r', $dir);
system_or_bail('mv', "$dir.backup", $dir);
$b->start;
on($b, q{INSERT INTO t VALUES (6, 'in the place of what was lost')});
poll_until($b, q{SELECT bool_and(state = 'stopped' AND last_error ~ 'holds a transaction of this node') FROM cozesync.links}, 't', 'app');
is(on($a, q{SELECT string_agg(id::text, ',' ORDER BY id) FROM t}), '1,2,3,4,5', 'nothing leaves a database that lost transactions');
is(on($a, q{SELECT cozesync.wait_for_sync('500 ms')}), 'f', 'nor is anything sent to it');
like(sql_error($b, 'SELECT cozesync.confirm_identity()', 'app'), qr/55000: .*new_incarnation/s, 'it cannot be confirmed');
$b->restart;
poll_until($b, q{SELECT bool_and(state = 'stopped') FROM cozesync.links}, 't', 'app');
is(on($a, q{SELECT string_agg(id::text, ',' ORDER BY id) FROM t}), '1,2,3,4,5', 'nor after a restart');

done_testing();
