# A peer's role needs a set of functions and nothing else; passwords show up nowhere.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use CozeTest;

my ($a, $b) = new_pair(schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my @both = ($a, $b);
my $password = 'geheim-4711';
my $wrong = 'falsch-0815';

# What tells a password itself is kept out of the log by whoever types it.
sub quietly
{
    my ($node, $sql) = @_;
    return $node->safe_psql('postgres', "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; $sql");
}

sub sync_dsn
{
    my ($node, $password) = @_;
    return sprintf 'host=%s port=%s dbname=postgres user=sync password=%s', $node->host, $node->port, $password;
}

for my $node (@both)
{
    quietly($node, "CREATE ROLE sync LOGIN PASSWORD '$password'");
    $node->safe_psql('postgres', q{SELECT cozesync.grant_to_peer('sync');
        CREATE ROLE watcher LOGIN; GRANT pg_monitor TO watcher; CREATE ROLE nobody LOGIN});
    my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
    unlink $node->data_dir . '/pg_hba.conf';
    $node->append_conf('pg_hba.conf', "local all sync scram-sha-256\n$hba");
    $node->reload;
}

# --- a role without rights, with a password -------------------------------------------------

quietly($a, sprintf(q{SELECT cozesync.set_dsn('a', '%s'); SELECT cozesync.set_dsn('b', '%s')},
    sync_dsn($a, $password), sync_dsn($b, $password)));
ok(wait_sync(@both), 'in sync');
for my $mode (qw(push pull))
{
    $a->safe_psql('postgres', "SELECT cozesync.set_link('a', 'b', '$mode'); SELECT cozesync.set_link('b', 'a', '$mode')");
    ok(wait_sync(@both), "links are $mode");
    # Every connection is made anew, as this role.
    exec_all(q{SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
        WHERE application_name LIKE 'cozesync %' AND backend_type = 'client backend'}, @both);
    $a->safe_psql('postgres', "INSERT INTO t VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET v = '$mode'");
    $b->safe_psql('postgres', "INSERT INTO t SELECT g, '$mode' FROM generate_series(2, 5000) g ON CONFLICT (id) DO UPDATE SET v = '$mode'");
    ok(wait_sync(@both), "in sync over $mode");
    same_rows(\@both, ['t']);
    is($b->safe_psql('postgres', q{SELECT string_agg(DISTINCT usename, ',') FROM pg_stat_activity WHERE application_name = 'cozesync a'}),
        'sync', 'links use the role of the DSN');
}
for my $sql ('SELECT FROM t', 'SELECT FROM cozesync.member', 'SELECT FROM cozesync.log_1', 'SELECT cozesync.pause()',
    q{SELECT cozesync.set_dsn('a', NULL)}, 'SELECT FROM cozesync.links', 'SELECT cozesync.vector()')
{
    like(sql_error($a, "SET ROLE sync; $sql"), qr/42501: permission denied/, "the role may not: $sql");
}

# --- who may look ------------------------------------------------------------------------------

for my $sql ('SELECT count(*) FROM cozesync.links', 'SELECT cozesync.node_name()')
{
    isnt($a->safe_psql('postgres', "SET ROLE watcher; $sql"), '', "pg_monitor may: $sql");
    like(sql_error($a, "SET ROLE nobody; $sql"), qr/42501: permission denied/, "nobody else: $sql");
}
like(sql_error($a, 'SET ROLE watcher; SELECT FROM cozesync.member'), qr/42501/, 'pg_monitor does not see DSNs');
for my $call (q{cozesync.hello('')}, q{cozesync.receive('')}, 'cozesync.wait_for_sync()', q{cozesync.set_link('a', 'b', 'off')},
    'cozesync.confirm_identity()', 'cozesync.retry()', 'cozesync.resume()')
{
    like(sql_error($a, "SET ROLE nobody; SELECT $call"), qr/42501/, "not open to PUBLIC: $call");
}
like(sql_error($a, q{SET ROLE nobody; CALL cozesync.send('', NULL)}), qr/42501/, 'not open to PUBLIC: send');

# Who was granted set_dsn still may not make the server connect with what it can do.
$a->safe_psql('postgres', q{GRANT USAGE ON SCHEMA cozesync TO nobody; GRANT EXECUTE ON FUNCTION cozesync.set_dsn(text, text),
    cozesync.member_origin(text), cozesync.check_dsn(text), cozesync.hide_statement(text) TO nobody; GRANT ALL ON cozesync.member TO nobody});
my $name_it = q{SET ROLE nobody; BEGIN; SELECT cozesync.set_dsn('b', 'host=/tmp user=postgres'); ROLLBACK};
like(sql_error($a, $name_it), qr/42501: permission denied to name a DSN/, 'peer authentication: holds');
debug_rule($a, 'superuser-dsn', 1);
unlike(sql_error($a, $name_it), qr/permission denied to name a DSN/, 'peer authentication: breaks without the rule superuser-dsn');
debug_rule($a, 'superuser-dsn', 0);

# --- a wrong password, a malformed DSN -----------------------------------------------------------

quietly($a, sprintf(q{SELECT cozesync.set_link('a', 'b', 'push'); SELECT cozesync.set_dsn('b', '%s')}, sync_dsn($b, $wrong)));
poll_until($a, q{SELECT last_error ~ 'password authentication failed' FROM cozesync.links WHERE target = 'b'});
my @shown = map { my $node = $_; map { $node->safe_psql('postgres', "SELECT x::text FROM $_ x") } qw(cozesync.links cozesync.nodes cozesync.link_stats()) } @both;
for my $dsn ("host=localhost passwort=$wrong", "postgresql://sync:x\@$wrong\@localhost/postgres", "host=localhost port=1 $wrong")
{
    my ($status, $out, $err) = $a->psql('postgres', "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; SELECT cozesync.set_dsn('b', '$dsn')",
        extra_params => [ '-v', 'SHOW_CONTEXT=always' ]);
    like($err, qr/the DSN is malformed/, 'a malformed DSN is refused');
    push @shown, $err;
}
quietly($a, sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, sync_dsn($b, $password)));
ok(wait_sync(@both), 'in sync with the right password');

unlike(join("\n", @shown), qr/$password|$wrong/, 'no view and no message tells a password');
for my $node (@both)
{
    my $log = slurp_file($node->logfile);
    unlike($log, qr/$password|$wrong/, 'no log tells a password');
    my $hex = unpack 'H*', $password;
    unlike($log, qr/$hex/, 'nor in a dump of bytes');
}

done_testing();
