# A role without any right but what grant_to_peer() gives links two nodes and, with
# pg_read_all_data, lets one join; passwords show nowhere.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my $quiet = "log_statement = 'none'\n";
my $a = new_node('a', conf => $quiet);
my $b = new_node('b', conf => $quiet);
my $c = new_node('c', conf => $quiet);
my $password = 'sesame-42';

sub sync_dsn
{
    my ($node) = @_;
    return sprintf 'host=127.0.0.1 port=%s dbname=postgres user=sync password=%s', $node->port, $password;
}

# Over TCP, so that the password is asked for.
for my $node ($a, $b, $c)
{
    $node->append_conf('postgresql.conf', "listen_addresses = '127.0.0.1'");
    $node->append_conf('pg_hba.conf', 'host all sync 127.0.0.1/32 scram-sha-256');
    $node->restart;
    $node->safe_psql('postgres', qq{SET password_encryption = 'scram-sha-256';
        CREATE ROLE sync LOGIN PASSWORD '$password'; SELECT cozesync.grant_to_peer('sync')});
}
$a->safe_psql('postgres', q{CREATE ROLE shop_owner;
    CREATE TABLE t (id int PRIMARY KEY, v text);
    ALTER TABLE t OWNER TO shop_owner;
    INSERT INTO t SELECT g, 'v' FROM generate_series(1, 100) g});
$a->safe_psql('postgres', sprintf(q{SELECT cozesync.create_group('g', 'a', '%s')}, sync_dsn($a)));
$a->safe_psql('postgres', q{SELECT cozesync.add_schema('public')});

isnt($a->psql('postgres', sprintf(q{SELECT cozesync.create_group('h', 'a', '%s')}, sync_dsn($a))), 0, 'twice is an error');

my $join = sprintf(q{CALL cozesync.join_group('b', '%s', '%s')}, sync_dsn($b), sync_dsn($a));
like(sql_error($b, $join), qr/42501.*permission denied for table/s, 'joining needs a role that may read');
is($b->safe_psql('postgres', q{SELECT count(*) FROM cozesync.nodes}), 0, 'nothing is begun');
is($b->safe_psql('postgres', q{SELECT to_regclass('t') IS NULL}), 't', 'nothing is left');
$_->safe_psql('postgres', 'GRANT pg_read_all_data TO sync') for $a, $b;
my ($status, $out, $err) = $b->psql('postgres', $join);
is($status, 0, 'that is enough') or diag($err);
like($err, qr/role "shop_owner" does not exist/, 'roles that are missing here are told');
is($b->safe_psql('postgres', q{SELECT tableowner = current_user FROM pg_tables WHERE tablename = 't'}), 't',
    'and the table belongs to who joined');
$b->safe_psql('postgres', q{UPDATE t SET v = 'b' WHERE id < 10});
$a->safe_psql('postgres', q{UPDATE t SET v = 'a' WHERE id > 90});
ok(wait_quiet($a, $b), 'in sync over a role without rights on tables');
same_rows([ $a, $b ], ['t'], 'rows');

# Asked about a table, and told good-bye, over the same role.
exec_all(q{CREATE TABLE u (id int PRIMARY KEY)}, $a, $b);
is($b->safe_psql('postgres', q{SELECT cozesync.add_table('u')}), 1, 'a table is added');
is($a->safe_psql('postgres', q{SELECT cozesync.spread_sequences()}), 0, 'no sequence to spread');
$c->safe_psql('postgres', 'CREATE ROLE shop_owner');
$c->safe_psql('postgres', sprintf(q{CALL cozesync.join_group('c', '%s', '%s')}, sync_dsn($c), sync_dsn($b)));
is($c->safe_psql('postgres', q{SELECT count(*) FROM t WHERE v = 'b'}), 9, 'a third joins through the second');
$c->safe_psql('postgres', 'SELECT cozesync.leave_group()');
ok(poll_until($a, q{SELECT count(*) = 2 FROM cozesync.nodes}), 'and leaves');

# What the role may not do.
$a->safe_psql('postgres', 'REVOKE pg_read_all_data FROM sync');
my $as_sync = sync_dsn($a);
for my $sql ('SELECT * FROM cozesync.member', q{SELECT cozesync.drop_node('b')}, q{SELECT cozesync.add_table('u')},
    'SELECT cozesync.leave_group()', q{SELECT cozesync.pause()}, q{UPDATE t SET v = 'x'})
{
    my ($ok, $o, $e) = $a->psql('postgres', $sql, connstr => $as_sync);
    like($e, qr/permission denied/, "the role may not: $sql");
}

# The password is nowhere to be seen.
$b->stop;
$a->safe_psql('postgres', q{INSERT INTO t VALUES (1000, 'while b is away')});
ok(poll_until($a, q{SELECT count(*) > 0 FROM cozesync.links WHERE last_error IS NOT NULL}), 'a link has failed');
for my $view (qw(nodes links tables conflicts join_progress policies stats))
{
    unlike($a->safe_psql('postgres', "SELECT v::text FROM cozesync.$view v"), qr/\Q$password\E/, "no password in $view");
}
$b->start;
ok(wait_quiet($a, $b), 'in sync again');
unlike(slurp_file($_->logfile), qr/\Q$password\E/, 'no password in the log of ' . $_->name) for $a, $b, $c;

done_testing();
