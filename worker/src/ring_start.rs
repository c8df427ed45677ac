//! What a rank is told when all listen, checked on receive: addresses, and keys where the job asks for
//! TLS between ranks.

use std::net::SocketAddr;

use ringfold_collective::{PublicKey, RankKey, RingKeys};
use ringfold_common::ids::Rank;
use ringfold_proto::{FieldError, required_hash, v1};

/// Where all ranks listen, and who they are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RingStart {
    /// In rank order.
    pub peers: Vec<SocketAddr>,
    /// In rank order; none without TLS.
    keys: Vec<PublicKey>,
}

/// Keys that are no use to a rank whose job asks for TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(
        "cluster.tls is on, and the coordinator sent {got} keys for {world} ranks: is it an older \
         version?"
    )]
    Count { world: usize, got: usize },
    #[error("cluster.tls is on, and the coordinator sent another key than rank {0} announced")]
    Other(Rank),
}

impl TryFrom<v1::StartRing> for RingStart {
    type Error = FieldError;

    fn try_from(start: v1::StartRing) -> Result<Self, FieldError> {
        let peer = |peer: &String| {
            peer.parse().map_err(|_| FieldError {
                field: "start_ring.peers".to_owned(),
                expected: "IP:PORT".to_owned(),
                got: format!("{peer:.60?}"),
            })
        };
        let key = |key: &Vec<u8>| required_hash(key, "start_ring.keys").map(PublicKey);
        Ok(Self {
            peers: start.peers.iter().map(peer).collect::<Result<_, _>>()?,
            keys: start.keys.iter().map(key).collect::<Result<_, _>>()?,
        })
    }
}

impl RingStart {
    /// The keys of the ring that `rank`, which announced `own`, joins.
    pub fn keys(&self, rank: Rank, own: RankKey) -> Result<RingKeys, KeyError> {
        let (world, got) = (self.peers.len(), self.keys.len());
        match self.keys.get(rank.0 as usize) {
            _ if got != world => Err(KeyError::Count { world, got }),
            Some(key) if *key == own.public() => Ok(RingKeys::new(own, self.keys.clone())),
            _ => Err(KeyError::Other(rank)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(peers: &[&str], keys: &[&[u8]]) -> Result<RingStart, FieldError> {
        RingStart::try_from(v1::StartRing {
            fence: None,
            peers: peers.iter().map(|&peer| peer.to_owned()).collect(),
            keys: keys.iter().map(|key| key.to_vec()).collect(),
        })
    }

    #[test]
    fn addresses_and_keys_are_checked_on_receive() {
        let error = start(&["1.2.3.4:5", "nowhere"], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "start_ring.peers: expected IP:PORT, got \"nowhere\""
        );
        let error = start(&["1.2.3.4:5"], &[&[7; 31]]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "start_ring.keys: expected 32 bytes, got 31 bytes"
        );
    }

    #[test]
    fn a_rank_takes_a_key_for_each_rank_with_its_own_at_its_place() {
        let peers = ["1.2.3.4:5", "1.2.3.5:5"];
        let own = RankKey::generate().unwrap();
        let public = own.public().0;
        let keys = |keys: &[&[u8]], rank| {
            let start = start(&peers, keys).unwrap();
            start.keys(Rank(rank), own.clone()).map(drop)
        };
        assert_eq!(keys(&[&[7; 32], &public], 1), Ok(()));
        let error = keys(&[&public, &[7; 32]], 1).unwrap_err();
        assert_eq!(error, KeyError::Other(Rank(1)));
        for (got, sent) in [(0, vec![]), (1, vec![&public[..]])] {
            let error = keys(&sent, 0).unwrap_err();
            assert_eq!(error, KeyError::Count { world: 2, got });
        }
        assert_eq!(
            keys(&[], 0).unwrap_err().to_string(),
            "cluster.tls is on, and the coordinator sent 0 keys for 2 ranks: is it an older version?"
        );
    }
}
