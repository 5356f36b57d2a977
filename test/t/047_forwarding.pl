# Forwarding: what a peer lacks comes from whoever holds it, the direct road first; little
# comes twice, and when a road is gone or blocked another takes its place without a hand.

use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use CozeTest;
use Test::More;

my ($a, $b, $c) = new_group(
    nodes => [qw(a b c)],
    conf => "cozesync.batch_size = '256kB'\n",
    schema => q{CREATE TABLE t (node text, id int, v text, PRIMARY KEY (node, id))});
my @all = ($a, $b, $c);
my $done = 0;

# Some thousand small transactions and a large one on each of these nodes, at the same time.
sub load
{
    my (@nodes) = @_;
    my @writers;
    for my $node (@nodes)
    {
        my ($name, $first) = ($node->name, $done);
        push @writers, background($node, qq{
            DO 'BEGIN FOR i IN 1 .. 2000 LOOP
                INSERT INTO t VALUES (''$name'', $first + i, repeat(''x'', 200)); COMMIT;
            END LOOP; END';
            INSERT INTO t SELECT '$name', $first + 5000 + g, repeat(md5(g::text), 10) FROM generate_series(1, 3000) g;
            \\q
            });
    }
    $done += 10_000;
    $_->finish for @writers;
    return;
}

# Of what came in over all links: bytes, and bytes that were here already.
sub traffic
{
    my ($bytes, $twice) = (0, 0);
    for my $node (@all)
    {
        my ($in, $duplicate) = split /\|/, $node->safe_psql('postgres',
            q{SELECT sum(bytes), sum(duplicate_bytes) FROM cozesync.links WHERE target = cozesync.node_name()});
        $bytes += $in;
        $twice += $duplicate;
    }
    return ($bytes, $twice);
}

# Runs the code and returns how much of what was sent meanwhile came twice, in per cent.
sub share_twice
{
    my ($code) = @_;
    my ($bytes, $twice) = traffic();
    $code->();
    my ($bytes_after, $twice_after) = traffic();
    cmp_ok($bytes_after - $bytes, '>', 1_000_000, 'bytes were sent');
    return 100 * ($twice_after - $twice) / ($bytes_after - $bytes);
}

sub set_links
{
    my ($mode, @pairs) = @_;
    $a->safe_psql('postgres', join ';', map { "SELECT cozesync.set_link('$_->[0]', '$_->[1]', '$mode')" } @pairs);
    ok(wait_quiet(@all), "links are set to $mode");
    return;
}

# --- a healthy mesh -------------------------------------------------------------------

for my $mode (qw(push pull))
{
    set_links($mode, [qw(a b)], [qw(b a)], [qw(a c)], [qw(c a)], [qw(b c)], [qw(c b)]);
    my $share = share_twice(sub { load(@all); ok(wait_sync(@all), "in sync ($mode)"); });
    cmp_ok($share, '<=', 5, "a mesh sends each entry once ($mode): holds")
        or diag("$share per cent came twice");
    same_rows(\@all, ['t']);
}
set_links('push', [qw(a b)], [qw(b a)], [qw(a c)], [qw(c a)], [qw(b c)], [qw(c b)]);

# Without the rule everybody sends everything: the counter shows it.
debug_rule($_, 'one-road', 1) for @all;
my $without = share_twice(sub { load($a); ok(wait_sync(@all), 'in sync without the rule'); });
cmp_ok($without, '>', 10, 'a mesh sends each entry once (push): breaks without the rule one-road');
debug_rule($_, 'one-road', 0) for @all;

# --- one that was away --------------------------------------------------------------------

# What it lacks comes from each author, though the others hold it too.
$c->stop('fast');
load($a, $b);
$c->start;
ok(wait_quiet(@all), 'one that was away catches up');
my ($in, $twice) = split /\|/, $c->safe_psql('postgres',
    q{SELECT sum(bytes), sum(duplicate_bytes) FROM cozesync.links WHERE target = 'c'});
cmp_ok($in, '>', 1_000_000, 'it received what it lacked');
cmp_ok($twice / $in, '<=', 0.05, sprintf('%.2f per cent of it twice', 100 * $twice / $in));
same_rows(\@all, ['t']);

# --- a mesh of three with one link cut for good ------------------------------------------

set_links('off', [qw(a c)], [qw(c a)]);
my $share = share_twice(sub { load(@all); ok(wait_sync(@all), 'in sync with a link cut'); });
cmp_ok($share, '<=', 5, sprintf('%.2f per cent came twice with a link cut', $share));
same_rows(\@all, ['t']);
is($a->safe_psql('postgres', q{SELECT cozesync.wait_for_sync('60 s', 'c')}), 't', 'a waits for c');
set_links('push', [qw(a c)], [qw(c a)]);

# --- a road that is blocked, though it looks well ----------------------------------------

# The sessions that serve a's links at c stand still: nothing says so but silence.
my @frozen = split /\n/, $c->safe_psql('postgres',
    q{SELECT pid FROM pg_stat_activity WHERE application_name = 'cozesync a'});
cmp_ok(scalar @frozen, '>', 0, 'a is connected to c');
kill 'STOP', @frozen;
$a->safe_psql('postgres', q{INSERT INTO t VALUES ('a', -1, 'round about')});
ok(poll_until($c, 'SELECT count(*) = 1 FROM t WHERE id = -1'), 'another road takes its place');
kill 'CONT', @frozen;
ok(wait_quiet(@all), 'all goes on');
same_rows(\@all, ['t']);

# --- a node that cannot be connected to --------------------------------------------------------

for my $mode (qw(push pull))
{
    set_links($mode, [qw(a b)], [qw(b a)], [qw(c b)], [qw(b c)]);
    $a->safe_psql('postgres', q{SELECT cozesync.set_dsn('b', NULL)});
    ok(wait_quiet(@all), "b cannot be connected to ($mode)");
    ok(poll_until($_, q{SELECT bool_and(state = 'streaming') AND count(*) = 4 FROM cozesync.links}),
        $_->name . ' has all its links') for @all;
    is($b->safe_psql('postgres', q{SELECT string_agg(mode, ' ' ORDER BY source, target) FROM cozesync.links
            WHERE 'b' IN (source, target)}),
        'pull push push pull', 'b works them all');
    is($a->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE application_name = 'cozesync b'}),
        2, 'from its side');
    load(@all);
    ok(wait_sync(@all), "it takes and gives ($mode)");
    restart_node($b);
    $a->safe_psql('postgres', "INSERT INTO t VALUES ('a', $done, 'after a restart')");
    $b->safe_psql('postgres', "INSERT INTO t VALUES ('b', $done, 'after a restart')");
    ok(wait_quiet(@all), "and comes back by itself ($mode)");
    same_rows(\@all, ['t']);
    $a->safe_psql('postgres', sprintf(q{SELECT cozesync.set_dsn('b', '%s')}, node_dsn($b)));
    ok(wait_quiet(@all), 'b can be connected to again');
}

done_testing();
