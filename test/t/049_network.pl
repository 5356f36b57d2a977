# Roads that break without a word: cut one way or both, or in the midst of a batch.  It is
# noticed and shown, others take over, and all heals without a hand.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use NetTest;
BEGIN { enter_network(); }    # before output goes to a log
use CozeTest;
use PostgreSQL::Test::Cluster;
use Test::More;

my @names = qw(a b c);
my @nodes;
for my $name (@names)
{
    my $host = add_host($name);
    my $node = PostgreSQL::Test::Cluster->new($name);
    $node->init(extra => [ '--no-locale', '--encoding=UTF8' ]);
    $node->append_conf('postgresql.conf', $CozeTest::conf .
        "listen_addresses = '*'\ncozesync.link_timeout = '4s'\ncozesync.batch_size = '256kB'\nlog_statement = none\n");
    $node->append_conf('pg_hba.conf', "host all all 10.9.0.0/16 trust\n");
    in_network($name, sub { $node->start });
    $node->safe_psql('postgres', 'CREATE EXTENSION cozesync');
    push @nodes, $node;
}
my ($a, $b, $c) = @nodes;

sub dsn
{
    my ($node) = @_;
    return sprintf 'host=%s port=%s dbname=postgres user=%s', host_of($node->name), $node->port, (getpwuid($<))[0];
}

# The schema is copied by a psql of the joiner's server: it must not pass through a cut.
$a->safe_psql('postgres', sprintf(q{
    CREATE TABLE t (id int PRIMARY KEY, v text);
    SELECT cozesync.create_group('g', node_name => 'a', dsn => '%s');
    SELECT cozesync.add_schema('public')}, dsn($a)));
$_->safe_psql('postgres', sprintf(q{CALL cozesync.join_group(node_name => '%s', dsn => '%s', via => '%s')},
    $_->name, dsn($_), dsn($a))) for $b, $c;
ok(wait_quiet(@nodes), 'three nodes on three networks');

my $key = 0;

sub write_on
{
    my ($node) = @_;
    $key++;
    $node->safe_psql('postgres', "INSERT INTO t VALUES ($key, 'x')");
    return $key;
}

sub has
{
    my ($node, $id) = @_;
    return poll_until($node, "SELECT count(*) = 1 FROM t WHERE id = $id");
}

# The link that this node works is seen to be broken; or is well.
sub sees
{
    my ($node, $source, $target, $state) = @_;
    return poll_until($node, "SELECT $state FROM cozesync.links WHERE source = '$source' AND target = '$target'");
}

for my $mode (qw(push pull))
{
    $a->safe_psql('postgres', join ';', map { "SELECT cozesync.set_link('$_->[0]', '$_->[1]', '$mode')" }
        [qw(a b)], [qw(b a)], [qw(a c)], [qw(c a)], [qw(b c)], [qw(c b)]);
    ok(wait_quiet(@nodes), "links are $mode");
    my ($worker, $server) = $mode eq 'push' ? ($a, $c) : ($c, $a);

    for my $ways ([ [qw(a c)], [qw(c a)] ], [ [qw(a c)] ], [ [qw(c a)] ])
    {
        my $what = join(', ', map { "$_->[0] to $_->[1]" } @$ways) . " ($mode)";
        cut(@$_) for @$ways;
        ok(has($c, write_on($a)), "what a writes goes round: cut from $what");
        ok(has($a, write_on($c)), 'and what c writes');
        ok(sees($worker, 'a', 'c', q{state IN ('connecting', 'backing off') AND last_error IS NOT NULL}), 'it is noticed');
        ok(has($c, write_on($a)) && has($a, write_on($c)), 'and goes on so');
        mend(@$_) for @$ways;
        ok(sees($worker, 'a', 'c', q{state = 'streaming' AND heard_at > now() - interval '3 s'}), 'the link comes back');
        ok(wait_quiet(@nodes), 'and all is quiet');
    }

    # --- in the midst of a batch: a node is cut off from all others
    my @all = ([qw(a c)], [qw(c a)], [qw(b c)], [qw(c b)]);
    my $bytes = $c->safe_psql('postgres', q{SELECT bytes FROM cozesync.links WHERE source = 'a' AND target = 'c'});
    my $writer = background($a, "INSERT INTO t SELECT 100000000 + $key * 100000 + g, repeat(md5(g::text), 30)
        FROM generate_series(1, 20000) g;\n\\q\n");
    poll_until($c, qq{SELECT bytes > $bytes + 500000 FROM cozesync.links WHERE source = 'a' AND target = 'c'});
    cut(@$_) for @all;
    $writer->finish;
    my $meanwhile = write_on($c);
    ok(has($b, write_on($a)), "the others go on while c is cut off ($mode)");
    ok(sees($worker, 'a', 'c', q{state <> 'streaming'}), 'it is noticed');
    is($a->safe_psql('postgres', "SELECT count(*) FROM t WHERE id = $meanwhile"), 0, 'nothing comes from c');
    mend(@$_) for @all;
    ok(wait_quiet(@nodes), 'all heals by itself');
    same_rows(\@nodes, ['t']);
    $a->safe_psql('postgres', 'DELETE FROM t WHERE id > 100000000');
}

# --- what a peer left behind ---------------------------------------------------------------------

# A session whose peer is gone ends by itself, so that nothing is shown as served that is not.
cut(@$_) for [qw(a c)], [qw(c a)];
ok(poll_until($_, q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'client backend'
        AND application_name = 'cozesync } . ($_ == $a ? 'c' : 'a') . q{'}), 'no session is left on ' . $_->name) for $a, $c;
mend(@$_) for [qw(a c)], [qw(c a)];
ok(wait_quiet(@nodes), 'and the links come back');
same_rows(\@nodes, ['t']);

done_testing();
