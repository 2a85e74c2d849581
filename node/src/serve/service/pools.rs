//! `Pools`: named numbers of slots.

use std::ops::Bound;

use matins_core::command::Command;
use matins_core::id::PoolName;
use matins_proto::v1::pools_server::Pools;
use matins_proto::v1::{
    DeletePoolRequest, DeletePoolResponse, ListPoolsRequest, ListPoolsResponse, SetPoolRequest,
    SetPoolResponse,
};
use tonic::{Request, Response};

use crate::serve::api::{Api, named, page_size};
use crate::serve::error::{Answer, ApiError};
use crate::serve::page::{Query, cut};
use crate::serve::view::executor::pool;

/// The most slots that a pool may have.
const SLOTS_MAX: u32 = 1_000_000;

/// Answers `Pools`.
pub(crate) struct PoolsService(pub(crate) Api);

#[tonic::async_trait]
impl Pools for PoolsService {
    async fn list(&self, request: Request<ListPoolsRequest>) -> Answer<ListPoolsResponse> {
        let request = request.into_inner();
        let query = Query::new("pools", &());
        let size = page_size(request.page_size, 100)?;
        let after = query.last(&request.page_token)?.map(|name| named::<PoolName>("page_token", name));
        let after = after.transpose()?.map_or(Bound::Unbounded, Bound::Excluded);
        let read = self.0.read(request.stale).await?;
        let rows = read.state.pools.range((after, Bound::Unbounded));
        let (rows, next_page_token) = cut(rows, size, |(name, _)| query.token(name.as_str()));
        let pools = rows.into_iter().map(|(name, row)| pool(name, row, &read.state)).collect();
        Ok(Response::new(ListPoolsResponse { read_at: Some(read.at), pools, next_page_token }))
    }

    async fn set(&self, request: Request<SetPoolRequest>) -> Answer<SetPoolResponse> {
        let request = request.into_inner();
        let name: PoolName = named("name", &request.name)?;
        if request.slots > SLOTS_MAX {
            return Err(
                ApiError::limit("slots of a pool", u64::from(SLOTS_MAX), u64::from(request.slots)).into()
            );
        }
        let description = if let Some(description) = request.description {
            description
        } else {
            let read = self.0.read(false).await?;
            read.state.pools.get(&name).map(|row| row.description.clone()).unwrap_or_default()
        };
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let command = Command::SetPool { pool: name.clone(), slots: request.slots, description };
        let (_, committed) = self.0.command(&ask, command).await?;
        let state = self.0.state_at(committed.index).await;
        let pool = state.pools.get(&name).map(|row| pool(&name, row, &state));
        Ok(Response::new(SetPoolResponse { committed: Some(committed), pool }))
    }

    async fn delete(&self, request: Request<DeletePoolRequest>) -> Answer<DeletePoolResponse> {
        let request = request.into_inner();
        let name = named("name", &request.name)?;
        let ask = self.0.ask(&request.request_id, request.not_after)?;
        let (_, committed) = self.0.command(&ask, Command::DeletePool(name)).await?;
        Ok(Response::new(DeletePoolResponse { committed: Some(committed) }))
    }
}
