# Links over TLS with SCRAM or client certificates: who is not who the DSN says gets no
# connection, the error says why, and no password shows up anywhere.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no openssl' if system('command -v openssl >/dev/null') != 0;

my $dir = PostgreSQL::Test::Utils::tempdir();
my $password = 'geheim-4711';

# --- certificates ----------------------------------------------------------------------------

sub openssl
{
    my (@args) = @_;
    my ($out, $err) = ('', '');
    IPC::Run::run([ 'openssl', @args ], '<', \undef, '>', \$out, '2>', \$err) or die "openssl @args: $err";
    return;
}

sub make_ca
{
    my ($name) = @_;
    openssl('req', '-new', '-x509', '-nodes', '-newkey', 'rsa:2048', '-days', '2', '-subj', "/CN=$name authority",
        '-keyout', "$dir/$name.key", '-out', "$dir/$name.crt");
    return;
}

# A certificate for a host or a role, signed by a CA.
sub make_certificate
{
    my ($name, $ca) = @_;
    openssl('req', '-new', '-nodes', '-newkey', 'rsa:2048', '-subj', "/CN=$name",
        '-keyout', "$dir/$name.key", '-out', "$dir/$name.csr");
    append_to_file("$dir/$name.ext", "subjectAltName=DNS:$name\n");
    openssl('x509', '-req', '-in', "$dir/$name.csr", '-CA', "$dir/$ca.crt", '-CAkey', "$dir/$ca.key", '-CAcreateserial',
        '-days', '2', '-extfile', "$dir/$name.ext", '-out', "$dir/$name.crt");
    chmod 0600, "$dir/$name.key" or die "chmod: $!";
    return;
}

make_ca('ours');
make_ca('other');
make_certificate('localhost', 'ours');
make_certificate('certified', 'ours');

# --- two nodes that take nothing but TLS from these roles ----------------------------------------

my ($a, $b) = new_pair(schema => 'CREATE TABLE t (id int PRIMARY KEY, v text)');
my @both = ($a, $b);

# What tells a password itself is kept out of the log by whoever types it.
sub quietly
{
    my ($node, $sql) = @_;
    return $node->safe_psql('postgres', "SET log_statement = 'none'; SET log_min_error_statement = 'panic'; $sql");
}

sub secure
{
    my ($node) = @_;
    quietly($node, "CREATE ROLE sync LOGIN PASSWORD '$password'; CREATE ROLE certified LOGIN");
    $node->safe_psql('postgres', q{SELECT cozesync.grant_to_peer('sync'); SELECT cozesync.grant_to_peer('certified');
        GRANT pg_read_all_data TO sync});
    my $hba = slurp_file($node->data_dir . '/pg_hba.conf');
    unlink $node->data_dir . '/pg_hba.conf';
    $node->append_conf('pg_hba.conf', "local all sync,certified reject\nhostnossl all all all reject\n"
        . "hostssl all sync all scram-sha-256\nhostssl all certified all cert\n$hba");
    $node->append_conf('postgresql.conf', qq{
        listen_addresses = '127.0.0.1'
        ssl = on
        ssl_cert_file = '$dir/localhost.crt'
        ssl_key_file = '$dir/localhost.key'
        ssl_ca_file = '$dir/ours.crt'});
    $node->restart;
    return;
}

# How a node is reached over TLS; options replace or add.
sub tls_dsn
{
    my ($node, %opt) = @_;
    my %dsn = (host => 'localhost', hostaddr => '127.0.0.1', port => $node->port, dbname => 'postgres', user => 'sync',
        password => $password, sslmode => 'verify-full', sslrootcert => "$dir/ours.crt", %opt);
    return join ' ', map { "$_=$dsn{$_}" } grep { defined $dsn{$_} } sort keys %dsn;
}

sub set_dsns
{
    my (%opt) = @_;
    quietly($a, join ';', map { sprintf q{SELECT cozesync.set_dsn('%s', '%s')}, $_->name, tls_dsn($_, %opt) } @both);
    return;
}

secure($_) for @both;
ok(wait_sync(@both), 'in sync over sockets');

# Who is connected with a node: role and whether over TLS.
sub sessions
{
    my ($node) = @_;
    return $node->safe_psql('postgres', q{SELECT string_agg(DISTINCT a.usename || ' ' || s.ssl, ',')
        FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid)
        WHERE a.application_name LIKE 'cozesync %' AND a.backend_type = 'client backend'});
}

for my $case ([ 'a password', 'sync true', channel_binding => 'require' ],
    [ 'a client certificate', 'certified true', user => 'certified', password => undef,
        sslcert => "$dir/certified.crt", sslkey => "$dir/certified.key" ])
{
    my ($how, $sessions, %opt) = @$case;
    for my $mode (qw(push pull))
    {
        set_dsns(%opt);
        $a->safe_psql('postgres', "SELECT cozesync.set_link('a', 'b', '$mode'); SELECT cozesync.set_link('b', 'a', '$mode')");
        ok(wait_sync(@both), "$how, $mode: known everywhere");
        $_->restart for @both;
        $a->safe_psql('postgres', "INSERT INTO t VALUES (1, 'a') ON CONFLICT (id) DO UPDATE SET v = '$how $mode'");
        $b->safe_psql('postgres', "INSERT INTO t SELECT g, '$how $mode' FROM generate_series(2, 3000) g ON CONFLICT (id) DO UPDATE SET v = excluded.v");
        ok(wait_quiet(@both), "$how, $mode: in sync");
        same_rows(\@both, ['t'], "$how, $mode: the same rows");
        my ($target) = $mode eq 'push' ? $b : $a;
        is(sessions($target), $sessions, "$how, $mode: who is connected");
    }
}

# --- who is not who the DSN says -----------------------------------------------------------------------

set_dsns();
$a->safe_psql('postgres', q{SELECT cozesync.set_link('a', 'b', 'push'); SELECT cozesync.set_link('b', 'a', 'push')});
ok(wait_sync(@both), 'links are push again');
my @shown;
for my $case (
    [ 'a CA that did not sign', { sslrootcert => "$dir/other.crt" }, 'certificate verify failed' ],
    [ 'another name than in the certificate', { host => 'elsewhere' }, 'does not match host name' ],
    [ 'a wrong password', { password => 'falsch-0815' }, 'password authentication failed' ],
    [ 'without TLS', { sslmode => 'disable', sslrootcert => undef }, 'no encryption|pg_hba.conf rejects' ])
{
    my ($what, $opt, $error) = @$case;
    quietly($a, sprintf q{SELECT cozesync.set_dsn('b', '%s')}, tls_dsn($b, %$opt));
    # a connection that stands is kept until it ends
    $b->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'cozesync a'});
    ok(poll_until($a, "SELECT last_error ~ '$error' FROM cozesync.links WHERE target = 'b'"), "refused: $what");
    push @shown, $a->safe_psql('postgres', q{SELECT l::text FROM cozesync.links l});
    quietly($a, sprintf q{SELECT cozesync.set_dsn('b', '%s')}, tls_dsn($b));
    ok(wait_sync(@both), "and in sync with the right DSN ($what)");
}

# --- joining over TLS -------------------------------------------------------------------------------------

my $c = new_node('c');
secure($c);
my $join = q{SET log_statement = 'none'; SET log_min_error_statement = 'panic'; CALL cozesync.join_group('c', '%s', '%s')};
my $error = sql_error($c, sprintf $join, tls_dsn($c), tls_dsn($a, sslrootcert => "$dir/other.crt"));
like($error, qr/08001|08006/, 'a joiner does not believe a stranger: SQLSTATE');
like($error, qr/certificate verify failed/, 'and says why');
push @shown, $error;
quietly($c, sprintf $join, tls_dsn($c), tls_dsn($a));
ok(wait_quiet($a, $b, $c), 'joined over TLS');
same_rows([ $a, $b, $c ], ['t']);

unlike(join("\n", @shown), qr/$password|falsch-0815/, 'no view and no message tells a password');
unlike(slurp_file($_->logfile), qr/$password|falsch-0815/, 'nor does the log of ' . $_->name) for $a, $b, $c;

done_testing();
